"""What an audit keeps between runs: token signals, paraphrases as edits, references, self-prompted text."""
