"""Being dropped into other projects: these operators under the names that other packages call.

Nothing here is imported by ``import detops``; each part needs the package that it is about.
"""
