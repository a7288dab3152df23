"""Attribution methods that apply an approximate inverse Hessian to gradients: DataInf, LiSSA, K-FAC and EK-FAC."""
