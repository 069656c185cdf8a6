"""What makes parts of this repository: generated tables and pages, and the class names."""
