"""What things cost beside a floor that does the least that could be done: `make bench`.

Each benchmark times its cases and their floor in turn within one run, and prints ratios: seconds
say more about the machine and its load. Nothing here is asserted; tests hold what can be counted.
"""
