"""What a parser sees in an image: objects, places such as "car ahead", and differences in words."""
