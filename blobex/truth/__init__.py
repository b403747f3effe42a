"""Whether explanations are true: measured on synthetic scenes, whose causes are known."""
