"""What a detector looks at, face by face."""
