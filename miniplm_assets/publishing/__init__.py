"""What leaves the project: folders as the Hugging Face hub has them, with their cards, and sending them there."""
