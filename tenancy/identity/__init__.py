"""Who people are: passwords and codes kept here, directories and identity providers elsewhere."""
