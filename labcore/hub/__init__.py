"""Other people's interfaces to the lab's models: diffusers' pipelines (`labcore.hub.pipelines`)."""
