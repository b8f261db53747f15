"""From a prompt to an answer: sampling, the column loop, and the session that streams text and sound."""
