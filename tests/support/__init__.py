"""What tests share: doubles that refuse what real stores refuse, a clock that stands still, worlds that can crash."""
