"""Describes, builds and stores the model: its configuration, its assembly from parts, and the talker folder."""
