"""The service: receives registry events, reconciles, starts recipes, shows the fleet. Needs the extra `serve`."""
