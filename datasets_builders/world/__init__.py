"""The synthetic world: parametric products, generic shapes and the defect painter, behind `scene`."""
