package dir

// Stepping returns the backend with a hook between any two actions.
func Stepping(step func(string)) Backend { return Backend{step: step} }
