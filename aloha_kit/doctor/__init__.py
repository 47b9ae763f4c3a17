"""The rig doctor: is this rig fit to record and deploy on, and if not, what has to be done?"""
