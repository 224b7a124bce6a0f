"""The clinical domain: cases, checks, prompts, results. Free of terminal and of runtime."""
