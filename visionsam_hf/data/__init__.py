"""What the images and masks are: schemas, files, checks, geometry, prompts; imports no other room."""
