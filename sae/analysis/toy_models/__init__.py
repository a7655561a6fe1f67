"""Measures of toy models: phases, adversarial robustness, loss by number of active features, hedging."""
