"""What kind of file one is, told by its first bytes or its ending, and what converts those that are not read here."""

from __future__ import annotations

from pathlib import Path

READABLE = ".nii, .nii.gz, .mgz, .npz, .npy, .nrrd, .mha, .mhd, DICOM, .png, .jpg or .tif"
"""Image formats that are read here, as messages name them."""

POINTS = ".csv, .fcsv, .mrk.json, .vtk, .ply, .stl, .gii, .trk or .tck"
"""Likewise of points."""
SCANNER = "mris_convert --to-scanner IN OUT.gii"
"""What brings a surface of FreeSurfer into the space of its image."""

_ITK = "SimpleITK (sitk.WriteImage(sitk.ReadImage(...), 'x.nii.gz')) or 3D Slicer"
_PICTURE = "ImageMagick (magick IN OUT.png)"
READERS = {
    "NRRD": "itk", "MetaImage": "itk", "GIPL": "itk", "VTK": "itk", "DICOM": "dicom", "TIFF": "tiff", "PNG": "picture",
    "JPEG": "picture", "BMP": "picture", "GIF": "picture", "WebP": "picture",
}  # fmt: skip
"""Kind -> what reads it; the other kinds are refused by name."""
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"NRRD", "NRRD", ""),
    (0, b"ObjectType", "MetaImage", ""),
    (0, b"NDims", "MetaImage", ""),
    (128, b"DICM", "DICOM", ""),
    (0, b"II*\0", "TIFF", ""),
    (0, b"MM\0*", "TIFF", ""),
    (0, b"II+\0", "TIFF", ""),
    (0, b"MM\0+", "TIFF", ""),
    (0, b"\xff\xd8\xff", "JPEG", ""),
    (0, b"\x89PNG", "PNG", ""),
    (0, b"GIF8", "GIF", ""),
    (0, b"BM", "BMP", ""),
    (8, b"WEBP", "WebP", ""),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000", _PICTURE),
    (0, b"CDF\1", "MINC", "mnc2nii"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", "h5py (save the array as .npz)"),
    (0, b"PK\3\4", "a zip archive", "unpacking it"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpacking it"),
    (0, b"BZh", "bzip2", "bunzip2"),
    (0, b"\xfd7zXZ", "xz", "unxz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (0, b"%PDF", "PDF", _PICTURE),
    (0, b"solid ", "a surface (STL)", "a tool that makes images of surfaces"),
    (0, b"# vtk", "VTK", ""),
    (0, b"Interfile", "Interfile", _ITK),
)
_ENDINGS: dict[str, tuple[str, str]] = {
    ".nrrd": ("NRRD", ""),
    ".nhdr": ("NRRD", ""),
    ".mha": ("MetaImage", ""),
    ".mhd": ("MetaImage", ""),
    ".dcm": ("DICOM", ""),
    ".ima": ("DICOM", ""),
    ".tif": ("TIFF", ""),
    ".tiff": ("TIFF", ""),
    ".jpg": ("JPEG", ""),
    ".jpeg": ("JPEG", ""),
    ".png": ("PNG", ""),
    ".bmp": ("BMP", ""),
    ".gif": ("GIF", ""),
    ".webp": ("WebP", ""),
    ".vtk": ("VTK", ""),
    ".gipl": ("GIPL", ""),
    ".par": ("Philips PAR/REC", "dcm2niix"),
    ".rec": ("Philips PAR/REC", "dcm2niix"),
    ".head": ("AFNI", "3dAFNItoNIFTI"),
    ".brik": ("AFNI", "3dAFNItoNIFTI"),
    ".mif": ("MRtrix", "mrconvert IN OUT.nii.gz"),
    ".mih": ("MRtrix", "mrconvert IN OUT.nii.gz"),
    ".mnc": ("MINC", "mnc2nii"),
    ".v": ("ECAT", "a PET converter"),
    ".czi": ("Zeiss CZI", "Fiji"),
    ".nd2": ("Nikon ND2", "Fiji"),
    ".lif": ("Leica LIF", "Fiji"),
    ".svs": ("a whole-slide image", "Fiji or QuPath"),
    ".zarr": ("Zarr", "zarr (save the array as .npz)"),
    ".pt": ("a PyTorch file", "torch (save the array as .npz)"),
    ".pth": ("a PyTorch file", "torch (save the array as .npz)"),
    ".pkl": ("a pickle", "Python (save the array as .npz)"),
}
_TRANSFORMS: dict[str, tuple[str, str]] = {
    ".xfm": ("a MINC transform", "FreeSurfer's lta_convert --inmni x.xfm --outitk x.txt"),
    ".dat": ("a FreeSurfer transform", "FreeSurfer's lta_convert --inreg x.dat --outlta x.lta"),
    ".m3z": ("a FreeSurfer warp", "FreeSurfer's mri_warp_convert --inm3z x.m3z --outitk x.nii.gz"),
    ".x5": ("an X5 transform", "nitransforms (to ITK's .h5)"),
}

_MESHES = "meshio (meshio convert IN OUT.ply)"
_OF_IMAGES = "3D Slicer's segmentations or skimage.measure.marching_cubes"
_POINTS_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xff\xfe", "a surface of FreeSurfer", SCANNER),
    (b"\xff\xff\xff", "a surface of FreeSurfer", SCANNER),
    (b"\x1f\x8b", "compressed", "gunzip"),
    (b"PK\3\4", "a zip archive or a spreadsheet", "unpacking it, or saving the sheet as CSV"),
    (b"<VTKFile", "VTK XML", "3D Slicer or ParaView (save as legacy .vtk)"),
    (b'<?xml version="1.0"?>\n<VTKFile', "VTK XML", "3D Slicer or ParaView (save as legacy .vtk)"),
    (b"MNI Tag Point File", "MINC tag points", "a text editor (a CSV table with x, y and z)"),
    (b"point\n", "elastix' list of points", "a text editor (a CSV table with x, y and z)"),
    (b"index\n", "elastix' list of points", "a text editor (a CSV table with x, y and z)"),
    (b"#!ascii label", "a label of FreeSurfer", "a text editor (a CSV table with x, y and z)"),
)
_POINTS: dict[str, tuple[str, str]] = {
    ".vtp": ("VTK XML", "3D Slicer or ParaView (save as legacy .vtk)"),
    ".vtu": ("VTK XML", "3D Slicer or ParaView (save as legacy .vtk)"),
    ".obj": ("Wavefront OBJ", _MESHES),
    ".off": ("OFF", _MESHES),
    ".msh": ("a Gmsh mesh", _MESHES),
    ".inp": ("an Abaqus mesh", _MESHES),
    ".asc": ("an ASCII surface of FreeSurfer", SCANNER),
    ".trx": ("TRX streamlines", "trx-python or DIPY (save as .trk)"),
    ".tt": ("DSI Studio's streamlines", "DSI Studio (save as .trk)"),
    ".tag": ("MINC tag points", "a text editor (a CSV table with x, y and z)"),
    ".xls": ("a spreadsheet", "saving it as CSV"),
    ".xlsx": ("a spreadsheet", "saving it as CSV"),
    ".tt.gz": ("DSI Studio's streamlines", "DSI Studio (save as .trk)"),
    ".nii": ("an image", _OF_IMAGES),
    ".nii.gz": ("an image", _OF_IMAGES),
    ".mat": ("a file of MATLAB", "MATLAB (writetable)"),
}


_POINTS |= {ending: ("an image", _OF_IMAGES) for ending, (kind, _) in _ENDINGS.items() if kind != "VTK"}


def reader_of(path: Path) -> str | None:
    """Of `READERS` the one that reads an image; None: nibabel, or none."""
    known = _known(path)
    return None if known is None else READERS.get(known[0])


def _known(path: Path) -> tuple[str, str] | None:
    """Kind and what converts it."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"# vtk") and b"STRUCTURED_POINTS" not in head.upper():
        return "a surface or mesh (VTK)", "a tool that makes images of surfaces"
    return next(
        ((kind, tool) for at, magic, kind, tool in _MAGIC if head[at : at + len(magic)] == magic),
        _ENDINGS.get(path.suffix.lower()),
    )


def foreign_image(path: Path) -> str | None:
    """What an image of another format is and what converts it: "is MINC: expected ..., convert it with ..."."""
    known = _known(path)
    return None if known is None or not known[1] else f"is {known[0]}: expected {READABLE}; convert it with {known[1]}"


def foreign_transform(path: Path) -> str | None:
    """Likewise of transforms."""
    known = _TRANSFORMS.get(path.suffix.lower())
    return None if known is None else f"is {known[0]}; convert it with {known[1]}"


def foreign_points(path: Path, head: bytes) -> str | None:
    """Likewise of points, surfaces and streamlines; `head` is the file's first bytes."""
    magic = next(((kind, tool) for start, kind, tool in _POINTS_MAGIC if head.startswith(start)), None)
    named = _POINTS.get("".join(path.suffixes[-2:]).lower(), _POINTS.get(path.suffix.lower()))
    known = named or magic  # what is packed has its packing's first bytes
    return None if known is None else f"is {known[0]}: expected {POINTS}; convert it with {known[1]}"
