"""Augmentations: what they do is measured, what they leave alone is compared."""

from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from anytalk import plugins
from anytalk.data.augment import make_augment
from anytalk.errors import AnytalkError, ConfigError, PluginError
from anytalk.plugins import hookimpl
from anytalk.plugins.components import BuildContext, Component, PartRef
from anytalk.plugins.contracts import Augmentation
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry, default_registry
from anytalk.plugins.testing.options import check_options
from anytalk_adapters.augmentations import impulse_response, pink

RATE_HZ = 16_000
NAMES = ["noise", "gain", "speed", "room"]


def tone(duration_s: float = 1.0, frequency_hz: float = 440.0, peak: float = 0.3) -> np.ndarray:
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (peak * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def apply(name: str, wave: np.ndarray, seed: int = 0, **options: Any) -> np.ndarray:
    part: Augmentation = default_registry().build("augmentation", PartRef(name=name, options=options))
    return part.apply(wave, RATE_HZ, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_options_are_documented(name: str) -> None:
    check_options("augmentation", name)


def test_all_are_registered() -> None:
    assert set(NAMES) <= set(default_registry().components("augmentation"))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_sound_and_another_seed_another(name: str) -> None:
    wave = tone()
    assert np.array_equal(apply(name, wave, 1), apply(name, wave, 1))
    first, second = apply(name, wave, 1), apply(name, wave, 2)
    assert first.shape != second.shape or not np.array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_the_input_stays_as_it_is(name: str) -> None:
    wave = tone()
    before = wave.copy()
    changed = apply(name, wave)
    assert np.array_equal(wave, before)
    assert not np.shares_memory(wave, changed)
    untouched = apply(name, wave, probability=0.0)
    assert np.array_equal(untouched, wave)
    assert not np.shares_memory(wave, untouched)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_clips_and_all_is_float32(name: str) -> None:
    loud = tone(peak=0.99)
    for seed in range(5):
        changed = apply(name, loud, seed)
        assert changed.dtype == np.float32
        assert np.abs(changed).max() <= 0.999
        assert np.isfinite(changed).all()


@pytest.mark.parametrize("name", NAMES)
def test_silence_stays_silence(name: str) -> None:
    assert not apply(name, np.zeros(800, np.float32)).any()


@pytest.mark.parametrize("name", NAMES)
def test_probability_is_the_share_that_changes(name: str) -> None:
    wave = tone(0.1)
    part: Augmentation = default_registry().build("augmentation", PartRef(name=name, options={"probability": 0.3}))
    generator = np.random.default_rng(0)
    results = [part.apply(wave, RATE_HZ, generator) for _ in range(400)]
    changed = np.mean([r.shape != wave.shape or not np.array_equal(r, wave) for r in results])
    assert 0.23 < changed < 0.37


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_has_the_ratio_that_was_asked_for(colour: str, snr_db: float) -> None:
    wave = tone(peak=0.1)
    noise = apply("noise", wave, colour=colour, min_snr_db=snr_db, max_snr_db=snr_db) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.5)


def test_noise_keeps_its_ratio_when_the_sum_had_to_be_scaled_down() -> None:
    wave = tone(peak=0.99)
    noisy = apply("noise", wave, min_snr_db=0, max_snr_db=0)
    share = float(np.dot(noisy, wave) / np.dot(wave, wave))
    noise = noisy - share * wave
    assert share < 0.9
    assert 10 * np.log10(np.mean((share * wave) ** 2) / np.mean(noise**2)) == pytest.approx(0, abs=0.5)


def test_pink_noise_has_as_much_power_in_each_octave() -> None:
    power = np.abs(np.fft.rfft(pink(np.random.default_rng(0).standard_normal(1 << 16)))) ** 2
    octaves = [power[low : 2 * low].sum() for low in (512, 1024, 2048, 4096, 8192)]
    assert max(octaves) / min(octaves) < 1.2


def test_gain_is_what_was_asked_for_until_it_would_clip() -> None:
    wave = tone(peak=0.3)
    assert apply("gain", wave, min_gain_db=-6, max_gain_db=-6) == pytest.approx(wave * 0.50119, abs=1e-5)
    assert np.abs(apply("gain", wave, min_gain_db=30, max_gain_db=30)).max() == pytest.approx(0.999, abs=1e-4)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    changed = apply("speed", tone(2.0), min_speed=speed, max_speed=speed)
    assert len(changed) == pytest.approx(2 * RATE_HZ / speed, abs=2)
    peak_hz = np.abs(np.fft.rfft(changed * np.hanning(len(changed)))).argmax() * RATE_HZ / len(changed)
    assert peak_hz == pytest.approx(440 * speed, abs=1)


def test_speed_does_not_make_a_question_too_long() -> None:
    changed = apply("speed", tone(29.0), min_speed=0.5, max_speed=0.5)
    assert 29 * RATE_HZ < len(changed) <= 30 * RATE_HZ


def test_a_room_keeps_the_length_and_the_direct_sound() -> None:
    wave = np.zeros(RATE_HZ, np.float32)
    wave[100] = 0.5
    changed = apply("room", wave, min_direct_db=6, max_direct_db=6, min_rt60_s=0.3, max_rt60_s=0.3, gap_s=0.004)
    assert len(changed) == len(wave)
    assert changed[:100] == pytest.approx(0, abs=1e-6)
    assert changed[100] == pytest.approx(0.5, abs=1e-6)
    assert changed[101:164] == pytest.approx(0, abs=1e-6)
    tail = changed[164:]
    assert 10 * np.log10(0.25 / np.sum(tail**2)) == pytest.approx(6, abs=0.1)


def test_a_room_decays_by_sixty_decibels_in_its_time() -> None:
    response = impulse_response(0.5, 0.0, 0.0, RATE_HZ, np.random.default_rng(0))[1:]
    blocks = response[:8000].reshape(20, 400)
    levels_db = 10 * np.log10(np.mean(blocks**2, axis=1))
    slope_db_per_s = np.polyfit((np.arange(20) + 0.5) * 400 / RATE_HZ, levels_db, 1)[0]
    assert slope_db_per_s == pytest.approx(-120, rel=0.05)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("noise", {"min_snr_db": 20, "max_snr_db": 10}),
        ("gain", {"min_gain_db": 7}),
        ("speed", {"min_speed": 0.1}),
        ("room", {"min_rt60_s": 0}),
        ("noise", {"probability": 2}),
        ("noise", {"colour": "brown"}),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"options of augmentation '{name}'"):
        apply(name, tone(), **options)


def test_without_augmentations_there_is_none() -> None:
    assert make_augment([], 0, default_registry()) is None


def test_a_chain_is_seeded_by_seed_and_row() -> None:
    refs = [PartRef(name="speed"), PartRef(name="noise", options={"min_snr_db": 5, "max_snr_db": 20})]
    augment, other = make_augment(refs, 3, default_registry()), make_augment(refs, 4, default_registry())
    assert augment is not None
    assert other is not None
    wave = tone(0.3)
    first = augment(wave, RATE_HZ, "set:1")
    augment(wave, RATE_HZ, "set:2")
    assert np.array_equal(augment(wave, RATE_HZ, "set:1"), first)
    for changed in (augment(wave, RATE_HZ, "set:2"), other(wave, RATE_HZ, "set:1")):
        assert changed.shape != first.shape or not np.array_equal(changed, first)


def test_unknown_names_are_refused_before_anything_is_heard() -> None:
    with pytest.raises(AnytalkError, match="did you mean 'noise'"):
        make_augment([PartRef(name="noize")], 0, default_registry())


class Broken(Augmentation):
    """Returns what no encoder can hear."""

    @classmethod
    def build(cls, options: plugins.Options, context: BuildContext) -> Self:
        return cls()

    def apply(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        return wave * np.nan


def test_sound_that_no_encoder_can_hear_names_its_maker() -> None:
    guest = SimpleNamespace(register_augmentations=hookimpl(lambda: [BROKEN]))
    installed = build_plugins()
    installed.register(guest, "guest")
    augment = make_augment([PartRef(name="broken")], 0, Registry(installed))
    assert augment is not None
    with pytest.raises(PluginError, match="'broken' returned for set:1"):
        augment(tone(), RATE_HZ, "set:1")


BROKEN = Component("broken", "test_augment:Broken", "for tests")
