"""What knows nothing of images: files, devices, checks of arguments, parallel processes."""
