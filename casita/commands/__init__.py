"""Commands that use every package: the demo, a trained model on a raw log, the page in the browser."""
