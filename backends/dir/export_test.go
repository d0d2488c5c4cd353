package dir

// Stepping returns the backend with a hook between any two acts.
func Stepping(step func(string)) Backend { return Backend{step: step} }
