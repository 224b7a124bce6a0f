"""What a chat is made of: the conversation, its commands, its keys, and the sessions that keep it."""
