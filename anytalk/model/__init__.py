"""The model: its configuration, its assembly from parts, and the talker folder on disk."""
