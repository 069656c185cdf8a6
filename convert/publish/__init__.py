"""Publishing: modules as archives with cards, an index for programs, and a site for people."""
