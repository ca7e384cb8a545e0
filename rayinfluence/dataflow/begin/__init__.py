"""What is read, checked and refused before work begins."""
