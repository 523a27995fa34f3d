"""Where tissue is on a slide, and how good the slide is."""
