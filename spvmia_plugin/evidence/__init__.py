"""A folder that an auditor can sign: what was asked, of which model, with what, what came out, and hashes of it all."""
