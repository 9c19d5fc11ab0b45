"""`visionsam convert SOURCE`: an original checkpoint to safetensors; nothing in it is executed."""

from pathlib import Path

from visionsam_hf.cli.options import ConvertSettings
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import names_in, written_directory
from visionsam_hf.models.conversion import convert_checkpoint


def run(settings: ConvertSettings) -> None:
    """Write the model directory, all or nothing, and say what was found."""
    output = Path(settings.output_dir)
    if output.exists() and (not output.is_dir() or names_in(output)):
        raise UserError(f"{output}: is there already; remove it, or choose another output_dir")
    with written_directory(output) as work:
        found = convert_checkpoint(
            settings.source, work, image_size=settings.image_size, min_max=settings.min_max
        )
    print(str(found).replace(str(work), str(output)))
