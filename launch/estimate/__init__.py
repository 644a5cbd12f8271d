"""What a program or a whole pipeline will take, before it starts: memory, time, disk, energy, money, and whether it fits."""
