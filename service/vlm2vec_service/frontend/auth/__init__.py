"""Who calls, what they may do, and how much of it.

``identity`` is what is known of a caller, ``callers`` the file that names them, ``tokens`` JWTs,
``quota`` the rates, and ``authenticator`` turns a call's credentials into an identity.
"""
