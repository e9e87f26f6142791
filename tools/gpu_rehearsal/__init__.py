"""What one GPU shows in half an hour: does it compute right, how fast, the product. Not yet run on one."""
