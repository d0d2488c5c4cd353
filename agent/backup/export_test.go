package backup

// Occupy makes the next backups to a repository wait until free is called, as if maxBackups backups ran.
func (c *Creator) Occupy(repository string) (free func()) {
	slots := c.slots.to(repository)
	for range maxBackups {
		slots <- struct{}{}
	}
	return func() {
		for range maxBackups {
			<-slots
		}
	}
}
