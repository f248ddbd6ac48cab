"""What any program needs: files, JSON, processes, the console. Nothing here knows of audits."""
