package backup

// Occupy makes the next backups wait until free is called, as if maxBackups backups ran.
func (c *Creator) Occupy() (free func()) {
	for range maxBackups {
		c.slots <- struct{}{}
	}
	return func() {
		for range maxBackups {
			<-c.slots
		}
	}
}
