"""What runs over many records share: lines of files in, with an error for each that is wrong."""
