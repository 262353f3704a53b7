"""Why a run is as it is: a table of causes over what is known of it (kctl.backends.facts). Talks to nobody."""
