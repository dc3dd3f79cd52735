"""The instruments: what two scripts need, or what has a dense reference in its tests. Modules import lower ones only."""
