"""The passes of fxprune: the axis algebra, rules, propagation, rewrite and verification."""
