"""What methods are made of: small objects that decide one thing each, with a state of their own."""
