"""How fast it is: answers, their parts, the exactness that speed costs, and training."""
