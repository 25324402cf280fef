"""What RAM, RAM++ and Tag2Text share: one backbone, one query decoder, one way to read a file and to decide."""
