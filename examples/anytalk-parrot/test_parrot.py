from anytalk.plugins.testing import check_backbone


def test_parrot_keeps_the_contract() -> None:
    check_backbone("parrot")
