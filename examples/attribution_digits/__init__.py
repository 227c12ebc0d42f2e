"""Attribution on handwritten digits: which training images make a prediction."""
