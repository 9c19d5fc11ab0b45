export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=/work/wt/train:/work/wt/train/recipes; cd /work/wt/train; S=/work/weights/scratch/h22
A="/work/main/.venv/bin/accelerate launch --config_file accelerate_configs/multi_cpu.yaml -m visionsam_hf"
while [ ! -f $S/world/coarse/model.safetensors ]; do sleep 3; done
time $A distil $S/fine.yaml && time $A sft $S/joint.yaml
