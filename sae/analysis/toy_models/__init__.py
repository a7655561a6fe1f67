"""Measurements of toy models: phases, adversarial examples, loss by number of active features, hedging."""
