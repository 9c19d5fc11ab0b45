"""Three candidates a prompt, how they are ranked, and the rows that rankings become."""
