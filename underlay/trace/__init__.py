"""One packet on its way: what the plan has for it beside what each kernel did with it."""
