"""The paper's data sets, read from a person's folder (`--data DIR`, DR_DATA); see `folder` for how."""
