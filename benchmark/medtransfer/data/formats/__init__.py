"""Image formats: common pictures, DICOM and NIfTI."""
