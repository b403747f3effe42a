"""The public interface: `Explainer`, `Request`, and explanations as records, folders and images."""
