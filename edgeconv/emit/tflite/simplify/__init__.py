"""TFLite graph -> TFLite graph: to what every runtime computes, then to fewer operators."""
